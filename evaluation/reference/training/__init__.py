"""What the pair is trained with: architecture, tokenizer, batches, optimizer and labels."""
