"""Programs that search for input which breaks a reader, guided by coverage."""
