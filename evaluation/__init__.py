"""What is said about a trained model: scores and pictures of them. How it was trained is not known here."""
