"""Progressive distillation of diffusion models (Salimans & Ho, ICLR 2022) as a production pipeline."""

# Metaflow ships only the flow's own folder to remote workers; this makes it bring the whole package along.
METAFLOW_PACKAGE_POLICY = "include"
