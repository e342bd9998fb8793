"""What every gRPC process is served with, from its settings to its end."""
