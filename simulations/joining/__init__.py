"""What joining brings: each hospital alone and together with others, judged on its own patients."""
