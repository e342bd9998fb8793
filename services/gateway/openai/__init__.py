"""What OpenAI's API says: requests, answers, and the chunks of a stream. Knows no HTTP and no gRPC call."""
