"""What tasks read: checks of prepared folders, their manifest, and text in and out of token ids."""
