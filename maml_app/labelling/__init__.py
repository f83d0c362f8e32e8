"""What happens to labels: saved, compared, reviewed, restored, counted, exported."""
