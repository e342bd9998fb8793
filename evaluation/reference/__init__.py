"""The reference pair: a tiny SLM, LLM and router that the project trains from nothing and ships."""
