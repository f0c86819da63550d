"""Pictures that a tokenizer learns within seconds: a ground of one of some colours with a bar or a disc on it."""

import torch

COLORS = torch.tensor([[230, 40, 30], [30, 160, 60], [40, 70, 220], [240, 220, 40], [240, 240, 240], [20, 20, 20]])


def draw(count, size=24, seed=0):
    """uint8 [count, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pictures = []
    for number in range(count):
        ground, figure = torch.randperm(len(COLORS), generator=generator)[:2].tolist()
        y, x, thick = torch.randint(size // 4, 3 * size // 4, (3,), generator=generator).tolist()
        shapes = (
            (rows - y) ** 2 + (columns - x) ** 2 < (thick / 2) ** 2,
            (rows - y).abs() < thick / 4,
            (columns - x).abs() < thick / 4,
        )
        inside = shapes[number % len(shapes)]
        pictures.append(torch.where(inside, COLORS[figure][:, None, None], COLORS[ground][:, None, None]).byte())
    return torch.stack(pictures)
