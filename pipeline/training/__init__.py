"""What training is made of, besides the recipe in `pipeline.finetune`."""
