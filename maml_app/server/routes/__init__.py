"""What the server answers, one module a concern; what is in none of them is closed."""
