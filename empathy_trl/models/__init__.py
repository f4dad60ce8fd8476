"""Language models and classifiers: loading, making tiny ones, generating with them and scoring with them."""
