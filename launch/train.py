"""Train under a launcher: `accelerate launch launch/train.py --config launch/recipes/R.yaml KEY=VALUE ...`."""

from streamgan.cli.train import main

if __name__ == "__main__":
    main()
