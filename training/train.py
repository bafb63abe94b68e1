"""Trains a backbone, then the same network with gated-compression layers. Needs torch.

    python train.py runs/base.pt  --kind dscnn --train data/train.npz --val data/val.npz --epochs 13 --lr 4e-3
    python train.py runs/gated.pt --start runs/base.pt --mode dynamic --beta 0.1  --train ... --val ... --epochs 2
    python train.py runs/final.pt --start runs/gated.pt --mode dynamic --beta 0.17 --train ... --val ... --epochs 4

    loss = CE(logits, class)                                                        smoothing 0.05
         + gate_weight * sum over gates  mean( -y log g - alpha (1 - y) log(1 - g) )
         + beta        * sum over masks  mean( keep )

y is 1 for keywords and g is the gate's score. `gate_weight` says how much the features may bend towards
what gates need, `alpha` how much stopping a negative counts against keeping a keyword, and `beta` is the
price of a live channel: with dynamic masks 0.1 takes hardly any, 0.25 about half. The first run has no masks and, with
--gate-weight 0 (the default in mode "off"), no gates either.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from augment import augment
from dataset import Clips
from features import dct_matrix
from models import build, standard_cfg


def loss_terms(logits, gates, keeps, label, is_positive, args):
    """The three terms of the loss, weighted."""
    task = F.cross_entropy(logits, label, label_smoothing=0.05)
    stop = task.new_zeros(())
    for gate in gates:
        wrong = -is_positive * F.logsigmoid(gate) - args.alpha * (1 - is_positive) * F.logsigmoid(-gate)
        stop = stop + wrong.mean()
    live = sum((keep.mean() for keep in keeps if keep is not None), task.new_zeros(()))
    return task, args.gate_weight * stop, args.beta * live


def model_features(kind, log_mel):
    """Model input [N, 1, 49, F] from log-mel [N, 49, 40]."""
    if kind == "dscnn":
        log_mel = log_mel @ torch.from_numpy(dct_matrix()).float().T
    return log_mel[:, None]


@torch.no_grad()
def validate(model, clips):
    """A line about accuracy, gates at 0.5 and live channels on clips."""
    model.eval()
    features = torch.from_numpy(clips.log_mel)
    logits, scores, live = [], [], []
    for start in range(0, len(features), 500):
        batch = model_features(model.cfg["kind"], features[start : start + 500])
        out, gates, keeps = model(batch)
        logits.append(out)
        scores.append(torch.sigmoid(torch.stack(gates, 1)))
        live.append(torch.tensor([1.0 if k is None else float((k > 0.5).float().mean()) for k in keeps]))
    model.train()
    label = torch.from_numpy(clips.label)
    positive = torch.from_numpy(clips.is_positive)
    stopped = torch.cat(scores) < 0.5
    accuracy = (torch.cat(logits).argmax(1) == label).float().mean()
    negatives, keywords = (
        "/".join(f"{100 * rate:.0f}" for rate in stopped[who].float().mean(0).tolist()) for who in (~positive, positive)
    )
    shares = "/".join(f"{share:.2f}" for share in torch.stack(live).mean(0).tolist())
    return f"accuracy {accuracy:.3f}, stopped at 0.5: negatives {negatives} %, keywords {keywords} %, live {shares}"


def prepare_model(args, clips):
    """A new model, or one that continues from a checkpoint (its GC layers may have another mode)."""
    if args.start:
        start = torch.load(args.start, map_location="cpu", weights_only=True)
        if start["labels"] != clips.labels:
            raise SystemExit("the clips and the checkpoint have different classes")
        model = build(dict(start["cfg"], mode=args.mode))
        found = model.load_state_dict(start["state"], strict=False)
        fresh = [name for name in found.missing_keys if not name.startswith("gated.")]
        if fresh:
            raise SystemExit(f"the checkpoint lacks {', '.join(fresh)}")
        print(f"{args.start}: continued, {len(found.missing_keys)} tensors of GC layers are new")
    else:
        model = build(standard_cfg(args.kind, args.mode, len(clips.labels), args.width, args.depth))
        examples = torch.from_numpy(clips.log_mel[:4000])
        model.normalise_like(model_features(args.kind, examples))
    return model.to(memory_format=torch.channels_last)


def optimiser(model, args, steps):
    """AdamW with a one-cycle schedule; static mask logits move about ten times as fast as weights."""
    masks = [p for name, p in model.named_parameters() if name.endswith("mask_logit")]
    others = [p for name, p in model.named_parameters() if not name.endswith("mask_logit")]
    groups = [dict(params=others, weight_decay=1e-3)]
    peaks = [args.lr]
    if masks:
        groups.append(dict(params=masks, weight_decay=0.0))
        peaks.append(2e-2)
    adam = torch.optim.AdamW(groups, lr=args.lr)
    return adam, torch.optim.lr_scheduler.OneCycleLR(adam, peaks, total_steps=steps, pct_start=0.15)


def train(model, clips, val, args):
    features, label = torch.from_numpy(clips.log_mel), torch.from_numpy(clips.label)
    is_positive = torch.from_numpy(clips.is_positive).float()
    steps = len(clips) // args.batch
    adam, schedule = optimiser(model, args, steps * args.epochs)
    model.train()
    for epoch in range(args.epochs):
        order = torch.randperm(len(clips))
        sums = torch.zeros(3)
        for step in range(steps):
            chosen = order[step * args.batch : (step + 1) * args.batch]
            inputs = model_features(model.cfg["kind"], augment(features[chosen]))
            outputs = model(inputs.contiguous(memory_format=torch.channels_last))
            terms = loss_terms(*outputs, label[chosen], is_positive[chosen], args)
            adam.zero_grad()
            sum(terms).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            adam.step()
            schedule.step()
            sums += torch.stack([term.detach() for term in terms])
        task, stop, live = (sums / steps).tolist()
        losses = f"loss {task:.3f} + gates {stop:.3f} + masks {live:.3f}"
        print(f"epoch {epoch}: {losses}; {validate(model, val)}", flush=True)
        torch.save(dict(cfg=model.cfg, labels=clips.labels, state=model.state_dict()), args.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="checkpoint to write (.pt), after every epoch")
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--val", nargs="+", required=True)
    parser.add_argument("--start", help="checkpoint to continue from")
    parser.add_argument("--kind", choices=["dscnn", "kwt"], default="dscnn", help="ignored with --start")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, help="blocks or layers")
    parser.add_argument("--mode", choices=["off", "static", "dynamic"], default="off")
    parser.add_argument("--gate-weight", type=float, help="default: 0 in mode off, else 0.3")
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.gate_weight is None:
        args.gate_weight = 0.0 if args.mode == "off" else 0.3

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    clips, val = Clips.load(*args.train), Clips.load(*args.val)
    if val.labels != clips.labels:
        raise SystemExit("training and validation clips have different classes")
    model = prepare_model(args, clips)
    print(sum(p.numel() for p in model.parameters()), "parameters,", len(clips), "clips")
    train(model, clips, val, args)


if __name__ == "__main__":
    main()
