"""What MONAI Label calls: datastore, infer, train and strategy tasks."""
