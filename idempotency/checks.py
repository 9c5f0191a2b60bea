"""System checks for guarded views, registered when the app is ready."""
