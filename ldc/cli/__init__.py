"""The command line: `ldc demo`, `ldc watch`, `ldc simulate`."""
