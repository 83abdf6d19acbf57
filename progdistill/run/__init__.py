"""One run, start to end: from options to the steps of the flow and its report."""
