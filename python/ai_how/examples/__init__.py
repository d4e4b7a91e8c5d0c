"""Scripts that the documentation names. No other module may stand beside them: their folder is first on `sys.path`."""
