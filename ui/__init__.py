"""What the Gradio page looks like: HTML made of answers, and the style sheet. No widgets, no model."""
