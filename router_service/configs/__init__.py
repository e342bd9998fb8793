"""Router recipes that ship with Trivium, one YAML file each; `router_service.training.recipe` reads them."""
