"""Where cases live: adapters behind the CaseSource port."""
