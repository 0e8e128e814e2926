"""What a run leaves in its work directory, and the only code that writes there; each artefact is readable alone."""
