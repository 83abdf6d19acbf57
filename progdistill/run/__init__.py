"""One run, start to end: from checked options to the steps of the flow and its report. No torch."""
