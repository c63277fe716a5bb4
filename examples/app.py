"""A page in the browser for a saved AIM or second look: upload an image, and see what the model uses of it.

python examples/app.py                                                   # the digits' model that comes with aimwrap
python examples/app.py runs/first/seed-0/second-look image.png more.png  # needs gradio

The model is a folder, or a name on the Hub. The images can be chosen on the page.
"""

import base64
import io
import os
import sys
from html import escape

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}  # read when gradio is imported
import gradio as gr
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from aimwrap import AIM, SecondLook, explain

MODEL, SAMPLES = None, []  # where no arguments are given, as in a hosted Space; None: the model of the digits
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]  # Pillow opens some others by other programs
Image.MAX_IMAGE_PIXELS = 50_000_000  # Pillow refuses twice as many
ORANGE, BLUE = torch.tensor([0.9, 0.45, 0.0]), torch.tensor([0.0, 0.45, 0.9])
HELP = """**How to read it.** Each stage of the network has a *mask*: what is closed is dark and grey here. The *merged
mask* decides: features outside it add exactly 0. A feature also depends on pixels around its own square.
*Contributions* add up to the result for this class: orange speaks for it, blue against it."""
HELP_TWICE = """ *Kept pixels*: the merged mask, grown by a margin. The *second look* sees only these, enlarged, and its
result counts."""
CSS = """.views {display: grid; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); gap: 1rem}
.views figure {margin: 0} .views img {width: 100%; border-radius: 6px}
.grid-wrap {min-height: 0 !important; padding-top: 2rem}
.grid-container {grid-template-columns: repeat(auto-fill, 80px) !important}"""

name, samples = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else (MODEL, SAMPLES)
if missing := [path for path in samples if not os.path.isfile(path)]:
    sys.exit(f"there is no image {missing[0]}")
try:
    model = None if name is None else AIM.from_pretrained(name)
except ValueError:  # it is a second look; or something is wrong, which is said again
    model = SecondLook.from_pretrained(name)
except FileNotFoundError as error:
    sys.exit(f"{error}\n\n{__doc__}")
if model is None:
    from aimwrap.data import DigitsOnPhotographs
    from aimwrap.demo import load_second_look

    name, model, digits = "aimwrap.demo.load_second_look()", load_second_look(), DigitsOnPhotographs("test")
    samples = [to_pil_image(digits[i].image) for i in range(8)]
twice, seen = isinstance(model, SecondLook), model.preprocessing
if seen is None or model.in_channels not in (1, 3):
    sys.exit(f"{name} must say how its images are prepared (model.preprocessing), and take grey or RGB images")
prepare, mean, std = seen.transform(), *(torch.tensor(values)[:, None, None] for values in (seen.mean, seen.std))
classes = model.class_names or list(map(str, range(max(2, model.num_classes))))


def look(path: str | None) -> tuple[dict[str, float] | None, str]:
    """The probabilities, and the pictures as HTML; the reason where an image cannot be read."""
    if path is None:
        return None, ""
    try:
        image = Image.open(path, formats=FORMATS)
        if max(image.size) > 20 * min(image.size):
            raise ValueError("one side is more than 20 times as long as the other")
        batch = prepare(image)[None]
    except Exception as error:  # damaged files raise what they like
        reason = f"it is none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else str(error)
        return None, f'<p role="alert"><b>This image cannot be read:</b> {escape(reason)}</p>'
    logits = model.predict(batch).logits[0]
    probabilities = (F.pad(logits, (1, 0)) if len(logits) == 1 else logits).softmax(0).tolist()
    winner = probabilities.index(max(probabilities))
    found, shown = explain(model, batch, [winner]), batch[0] * std + mean

    masks = {f"Mask of stage {stage}": mask[0] for stage, mask in found.masks.items()}
    masks |= {"Merged mask": found.merged_mask[0]} | ({"Kept pixels": found.kept[0]} if twice else {})
    shares = (found.on_the_image() if twice else found.contributions)[0]
    views = [figure("The image", "as the model takes it", shown)]
    views += [figure(title, f"{mask.mean():.0%} open", seen_through(shown, mask)) for title, mask in masks.items()]
    views.append(figure("Contributions", f"to the class {classes[winner]}", coloured(shown, shares)))
    if twice:
        cut_out = model.cut_out(batch, found.kept, found.boxes)[0] * std + mean
        views.append(figure("Second look", "sees this, and nothing else", cut_out))
    return dict(zip(classes, probabilities, strict=True)), f'<div class="views">{"".join(views)}</div>'


def seen_through(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(enlarged(mask, image) > 0, image, 0.3 * image.mean(0))


def coloured(image: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    shares = enlarged(shares / shares.abs().max().clamp(min=1e-12), image)
    colours = torch.where(shares > 0, ORANGE[:, None, None], BLUE[:, None, None])
    return torch.lerp(0.6 * image.mean(0).expand(3, -1, -1), colours, shares.abs())


def enlarged(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return F.interpolate(values[None], image.shape[1:], mode="nearest-exact")[0]


def figure(title: str, caption: str, image: torch.Tensor) -> str:
    file, title, caption = io.BytesIO(), escape(title), escape(caption)
    to_pil_image(image.clamp(0, 1)).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<figure><img src="{source}" alt="{title}, {caption}"><b>{title}</b><br>{caption}</figure>'


def chosen(event: gr.SelectData) -> str | Image.Image:
    return samples[event.index]


with gr.Blocks(title="What does the model use?", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
    gr.Markdown(f"# What does the model use?\n`{name}` tells apart: {', '.join(classes)[:200]}")
    with gr.Row():
        with gr.Column():
            given = {"type": "filepath", "format": "png", "image_mode": None, "sources": ["upload", "clipboard"]}
            upload = gr.Image(label="Your image", **given)
            upload.preprocess = lambda file: file and file.path  # unopened: look() says what is wrong with it
            options = {"visible": bool(samples), "allow_preview": False, "buttons": [], "height": "auto"}
            gr.Gallery(samples, label="Or try one of these", **options).select(chosen, None, upload)
        with gr.Column():
            result = [gr.Label(num_top_classes=5, label="Class and probability"), gr.HTML()]
            gr.Markdown(HELP + HELP_TWICE * twice)
    upload.change(look, upload, result)

page.launch(css=CSS, max_file_size="20mb", show_error=True, footer_links=[])
