"""What a network sees of a crystal: its graph, its powder pattern, its composition."""
