"""The stages that turn queries into labelled routing data, from LLM responses to the router's dataset."""
