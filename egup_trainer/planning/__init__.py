"""What an unlearning run will take in memory and time, before it is started and without the model's weights."""
