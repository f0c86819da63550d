"""Images and image-text pairs: tars indexed in place, loose files packed into tars, captions encoded once."""
