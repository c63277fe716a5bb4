"""Train AIM around a classifier of Hugging Face's transformers, with their Trainer.

python examples/train_transformers.py path/to/data  # path/to/data/{train,val}/<class>/*.jpg
"""

import sys
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from aimwrap import AIM, AIMLoss, MaskHealth, TauScheduler
from aimwrap.backbones import preprocessing_of_processor

CHECKPOINT = "facebook/convnext-tiny-224"
STAGES = [2, 3]  # of a ViT, which has one resolution, numbers of blocks: docs/transformers.md
EPOCHS, ANNEAL_EPOCHS = 20, 6


class AIMTrainer(Trainer):
    """The Trainer, with the loss on AIM's output, and with its logits as the predictions."""

    def __init__(self, criterion: AIMLoss, **arguments) -> None:
        super().__init__(callbacks=[Anneal(criterion)], **arguments)
        self.criterion = criterion
        self.health = MaskHealth(criterion)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(inputs["pixel_values"])
        loss = self.criterion(output, inputs["labels"])
        self.health.update(output, training=model.training)
        return (loss, {"logits": output.logits}) if return_outputs else loss

    def evaluate(self, *given, **options):
        metrics = super().evaluate(*given, **options)  # it shows progress, as training does
        self.health.warn()
        return metrics


class Anneal(TrainerCallback):
    """Tau falls after each epoch; a resumed run counts the epochs that its checkpoint has."""

    def __init__(self, criterion: AIMLoss) -> None:
        self.schedule = TauScheduler(criterion, anneal_epochs=ANNEAL_EPOCHS)

    def on_epoch_begin(self, args, state, control, **more) -> None:
        while self.schedule.steps_done < round(state.epoch):
            self.schedule.step()


def main(data: str) -> None:
    classes = ImageFolder(f"{data}/train").classes
    backbone = AutoModelForImageClassification.from_pretrained(
        CHECKPOINT, id2label=dict(enumerate(classes)), ignore_mismatched_sizes=True
    )
    model = AIM(backbone, stages=STAGES, tau=0.25)  # model.class_names are those of id2label
    model.preprocessing = preprocessing_of_processor(AutoImageProcessor.from_pretrained(CHECKPOINT))
    prepare = model.preprocessing.transform()

    last = Path("runs").glob("checkpoint-*")
    arguments = TrainingArguments(
        output_dir="runs",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        label_names=["labels"],  # AIM's forward takes images only, so the Trainer cannot know
        remove_unused_columns=False,
        report_to="none",
    )
    trainer = AIMTrainer(
        AIMLoss(tau=model.tau),
        model=model,
        args=arguments,
        train_dataset=ImageFolder(f"{data}/train", prepare),  # add augmentation of your own
        eval_dataset=ImageFolder(f"{data}/val", prepare),
        data_collator=lambda samples: {
            "pixel_values": torch.stack([image for image, _ in samples]),
            "labels": torch.tensor([label for _, label in samples]),
        },
        compute_metrics=lambda seen: {"accuracy": float((seen.predictions.argmax(1) == seen.label_ids).mean())},
        optimizers=(torch.optim.AdamW(model.parameter_groups(lr=1e-5, head_lr=1e-3), weight_decay=0.05), None),
    )
    trainer.train(resume_from_checkpoint=any(last) or None)
    if trainer.is_world_process_zero():
        model.save_pretrained("aim")
        backbone.config.save_pretrained("aim/backbone")  # from_pretrained needs a backbone like it


if __name__ == "__main__":
    main(sys.argv[1])
