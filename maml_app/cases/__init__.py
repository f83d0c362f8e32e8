"""What a case is: the task, the case, the file-name rules, the port to where cases live. Knows no image."""
