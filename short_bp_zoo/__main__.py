"""short-bp-zoo: list, classify with, train, export, verify and publish spiking networks."""

import argparse
import sys
from importlib import import_module
from importlib.metadata import version

from short_bp_zoo.networks import describe, list_networks

# Modules with a main of their own, which are imported when they are asked for.
COMMANDS = {
    "train": ("zoo.training.__main__", "train a recipe, or resume it"),
    "export": ("export.to_onnx", "turn a trained network into a verified folder"),
    "verify": ("export.verify", "run all checks of an exported folder again"),
    "publish": ("export.publish", "publish an exported folder into another or to the Hub"),
    "diagnose": ("zoo.diagnostics.__main__", "show gradients, firing rates and energy by layer"),
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("short-bp-zoo", description=__doc__.partition(": ")[2])
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('short-bp-zoo')}"
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    listing = commands.add_parser("list", help="list the networks, their sizes and weights")
    listing.add_argument("filters", nargs="*", metavar="FILTER", help="part of a name or wildcard")
    listing.add_argument("--pretrained", action="store_true", help="only networks with weights")

    info = commands.add_parser("info", help="describe one network")
    info.add_argument("name", metavar="NAME", help="of an architecture, or ARCH.TAG of weights")

    classify = commands.add_parser("classify", help="classify images")
    classify.add_argument("name", metavar="NAME", help="of a network with weights")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="JPEG, PNG or WebP file")
    classify.add_argument("--top", type=int, default=5, help="labels per image (default: 5)")

    for name, (_, description) in COMMANDS.items():
        commands.add_parser(name, help=description)
    return parser


def classify_images(name: str, images: list[str], top: int) -> None:
    """Print the most likely labels of each image with their probabilities."""
    import zoo
    from zoo.console import said_in_a_line

    with said_in_a_line():
        classifier = zoo.load_onnx(name)
        width = max(map(len, classifier.labels))
        for image in images:
            print(image)
            for label, probability in classifier.classify(image, top):
                print(f"  {label:<{width}} {probability:7.2%}")


def main() -> None:
    command, *rest = sys.argv[1:] or ["--help"]
    if command in COMMANDS:
        module, _ = COMMANDS[command]
        prog = f"short-bp-zoo {command}"
        sys.argv = [prog, *rest]
        import_module(module).main(prog)
        return
    options = parser().parse_args([command, *rest])
    if options.command == "classify":
        classify_images(options.name, options.images, options.top)
        return
    try:
        if options.command == "list":
            print(list_networks(options.filters, options.pretrained))
        else:
            print(describe(options.name))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
