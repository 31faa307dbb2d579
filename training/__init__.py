"""Fine-tune one LoRA adapter and one head per task, and write them as a bundle."""
