"""Networks behind one interface (`base.Network`): one file each."""
