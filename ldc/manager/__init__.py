"""What users call: the manager, the depth cache, settings, compatibility names."""
