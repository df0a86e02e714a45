"""From a description to a span that MLflow stores."""
