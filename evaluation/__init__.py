"""What is said about a trained model: scores, figures, the model card. How it was trained is not known here."""
