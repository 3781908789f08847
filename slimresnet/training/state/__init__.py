"""What a run goes on with after an interruption, and what tells two runs apart."""
