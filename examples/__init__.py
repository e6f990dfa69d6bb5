"""Programs that use signedwire."""
