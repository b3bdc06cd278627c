"""Values in, figures and sentences out. Nothing here opens a run."""
