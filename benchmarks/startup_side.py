"""A process of startup.py: open a model, label one photograph, say so. Nothing is imported that its library does not need."""

import sys


def main() -> None:
    kind, model, photograph, *more = sys.argv[1:]
    label = {"vitrail": of_vitrail, "timm": of_timm, "transformers": of_transformers, "torchvision": of_torchvision}[
        kind
    ](model, photograph, *more)
    print(f"label: {label}", flush=True)
    status = open("/proc/self/status").read() if sys.platform.startswith("linux") else ""  # noqa: SIM115
    print(f"memory: {int(status.split('VmHWM:')[1].split()[0]) * 1024 if status else 0}", flush=True)


def of_vitrail(model: str, photograph: str, engine: str = "auto") -> str:
    """Its Python interface, on a model folder or an exported one."""
    from vitrail.prediction import Predictor

    return str(Predictor(model, engine=engine)([photograph])[0].label)


def of_timm(model: str, photograph: str) -> str:
    """As timm's documentation has it."""
    import timm
    import torch
    from PIL import Image

    network = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        logits = network(transform(Image.open(photograph).convert("RGB"))[None])
    return str(int(logits.argmax()))


def of_transformers(model: str, photograph: str) -> str:
    from transformers import pipeline

    return str(pipeline("image-classification", model=model)(photograph)[0]["label"])


def of_torchvision(model: str, photograph: str) -> str:
    """As its documentation has it, with weights of a file."""
    import torch
    from safetensors.torch import load_file
    from torchvision.io import decode_image
    from torchvision.models import ViT_B_16_Weights, vit_b_16

    network = vit_b_16()
    network.load_state_dict(load_file(model))
    network.eval()
    with torch.inference_mode():
        logits = network(ViT_B_16_Weights.IMAGENET1K_V1.transforms()(decode_image(photograph, mode="RGB"))[None])
    return str(int(logits.argmax()))


if __name__ == "__main__":
    main()
