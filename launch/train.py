"""Training for a launcher: `accelerate launch launch/train.py --config RECIPE.yaml KEY=VALUE ...`."""

from streamgan.cli.train import main

if __name__ == "__main__":
    main()
