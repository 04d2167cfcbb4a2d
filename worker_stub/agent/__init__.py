"""An agent's command line as a worker: its events beat, and its last one declares."""
