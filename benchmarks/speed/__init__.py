"""What a step costs, side by side: plain fine-tuning, NPO as it is usually written, EGUP with all on, the floor."""
