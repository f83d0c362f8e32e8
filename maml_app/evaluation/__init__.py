"""How good an answer is: metrics, evaluation under every subset, reports and figures."""
