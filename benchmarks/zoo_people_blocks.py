"""More networks for images and points, of blocks that do something special to channels."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class OptionA(nn.Module):
    """CIFAR's ResNet whose shortcuts pad channels with zeros (He et al., 2015)."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        ins = [16, *(w for w in widths for _ in range(2))]
        self.blocks = nn.ModuleList(PaddedBlock(a, b, 1 if a == b else 2) for a, b in pairwise(ins))
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for block in self.blocks:
            x = block(x)
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


class PaddedBlock(nn.Module):
    """A basic block beside a padded shortcut."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
        self.conv2 = nn.Conv2d(b, b, 3, padding=1, bias=False)
        self.pad = b // 4 if stride > 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad), "constant", 0)
        return F.relu(y + x)


class PartialConv(nn.Module):
    """FasterNet's: a convolution of a quarter of the channels, written in place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim_conv3 = dim // 4
        self.dim_untouched = dim - self.dim_conv3
        self.conv = nn.Conv2d(self.dim_conv3, self.dim_conv3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, : self.dim_conv3, :, :] = self.conv(x[:, : self.dim_conv3, :, :])
        return x


class FasterNet(nn.Module):
    """FasterNet (Chen et al., 2023) with in-place partial convolutions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), nn.BatchNorm2d(width)]
        for stage in range(2):
            dim = width * 2**stage
            stages += [FasterBlock(dim), FasterBlock(dim)]
            stages += [nn.Conv2d(dim, 2 * dim, 2, 2), nn.BatchNorm2d(2 * dim)]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


class FasterBlock(nn.Module):
    """Partial convolution, then two 1x1 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.spatial = PartialConv(dim)
        layers = (nn.Conv2d(dim, 2 * dim, 1, bias=False), nn.BatchNorm2d(2 * dim), nn.ReLU())
        self.mlp = nn.Sequential(*layers, nn.Conv2d(2 * dim, dim, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.spatial(x))


class CBAM(nn.Module):
    """Attention over channels, then over positions (Woo et al., 2018)."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Conv2d(channels, channels // ratio, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // ratio, channels, 1, bias=False),
        )
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(
            self.fc(F.adaptive_avg_pool2d(x, 1)) + self.fc(F.adaptive_max_pool2d(x, 1))
        )
        mean, (highest, _) = torch.mean(x, dim=1, keepdim=True), torch.max(x, dim=1, keepdim=True)
        return x * torch.sigmoid(self.conv(torch.cat([mean, highest], dim=1)))


class CBAMNet(nn.Module):
    """Residual blocks with CBAM."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.a = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.b = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.attention = nn.ModuleList(CBAM(width) for _ in range(2))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for a, b, attention in zip(self.a, self.b, self.attention, strict=True):
            x = F.relu(x + attention(b(F.relu(a(x)))))
        return self.head(x.mean((2, 3)))


class LayerNorm2d(nn.Module):
    """ConvNeXt's norm over the channels of a feature map, by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(f(channels)) for f in (torch.ones, torch.zeros))

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class NAFBlock(nn.Module):
    """A block for restoring images: gates by halves, attention over channels (Chen, 2022)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm2d(c), LayerNorm2d(c)
        self.conv1, self.conv2 = (
            nn.Conv2d(c, 2 * c, 1),
            nn.Conv2d(2 * c, 2 * c, 3, 1, 1, groups=2 * c),
        )
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.conv3, self.conv4, self.conv5 = (
            *(nn.Conv2d(c, c, 1), nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1)),
        )
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, c, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv2(self.conv1(self.norm1(x))).chunk(2, dim=1)
        y = a * b
        x = x + self.conv3(y * self.sca(y)) * self.beta
        a, b = self.conv4(self.norm2(x)).chunk(2, dim=1)
        return x + self.conv5(a * b) * self.gamma


class Restorer(nn.Module):
    """Twice the resolution, by pixel shuffle beside a long skip."""

    def __init__(self, c: int = 32) -> None:
        super().__init__()
        self.intro, self.body = nn.Conv2d(3, c, 3, 1, 1), nn.Sequential(NAFBlock(c), NAFBlock(c))
        self.up = nn.Sequential(nn.Conv2d(c, 12, 3, 1, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.intro(x)
        y = y + self.body(y)
        return self.up(y) + F.interpolate(x, scale_factor=2, mode="bilinear")


def discriminator() -> nn.Module:
    """Spectrally normalised convolutions (Miyato et al., 2018)."""
    widths = (3, 16, 32, 64)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(64 * 8 * 8, 1)))


class StyleGenerator(nn.Module):
    """Instance norms whose scale and shift a style gives; grouped transposed convolutions."""

    def __init__(self, latent: int = 32, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.map = nn.Sequential(nn.Linear(latent, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64))
        self.start = nn.Linear(latent, width * 16)
        sizes = (width, width // 2, width // 4)
        pairs = list(pairwise(sizes))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1, groups=4) for a, b in pairs)
        self.convs = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for _, b in pairs)
        self.styles = nn.ModuleList(nn.Linear(64, 2 * b) for _, b in pairs)
        self.out = nn.Conv2d(sizes[-1], 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        style = self.map(z)
        x = self.start(z).view(-1, self.width, 4, 4)
        for up, conv, affine in zip(self.ups, self.convs, self.styles, strict=True):
            x = F.instance_norm(conv(F.leaky_relu(up(x), 0.2)))
            scale, shift = affine(style).unsqueeze(2).unsqueeze(3).chunk(2, 1)
            x = x * (scale + 1) + shift
        return self.out(x).tanh()


class VAE(nn.Module):
    """A convolutional autoencoder with a mean and a variance; it draws nothing."""

    def __init__(self, width: int = 16, latent: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ELU()),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ELU()),
        )
        self.mu, self.var = (nn.Linear(2 * width * 64, latent) for _ in range(2))
        self.expand = nn.Linear(latent, 2 * width * 64)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), nn.BatchNorm2d(width), nn.ELU()),
            nn.ConvTranspose2d(width, 3, 3, 2, 1, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.flatten(self.encoder(x), start_dim=1)
        mu, log_var = self.mu(h), self.var(h)
        z = mu + torch.exp(0.5 * log_var)
        return self.decoder(self.expand(z).view(-1, 32, 8, 8)), mu, log_var


class TNet(nn.Module):
    """PointNet's transformation: a k x k matrix from the points."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.conv1, self.conv2 = nn.Conv1d(k, 32, 1), nn.Conv1d(32, 128, 1)
        self.bn1, self.bn2 = nn.BatchNorm1d(32), nn.BatchNorm1d(128)
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, k * k)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = torch.max(x, 2, keepdim=True)[0].view(-1, 128)
        x = self.fc2(F.relu(self.fc1(x)))
        return x.view(-1, self.k, self.k) + torch.eye(self.k)


class PointNet(nn.Module):
    """PointNet (Qi et al., 2017): (N, 3, points) to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stn, self.fstn = TNet(3), TNet(32)
        self.conv1, self.conv2, self.conv3 = (
            *(nn.Conv1d(3, 32, 1), nn.Conv1d(32, 64, 1), nn.Conv1d(64, 256, 1)),
        )
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm1d(c) for c in (32, 64, 256))
        self.fc1, self.fc2 = nn.Linear(256, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.bmm(x.transpose(2, 1), self.stn(x)).transpose(2, 1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = torch.bmm(x.transpose(2, 1), self.fstn(x)).transpose(2, 1)
        x = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x)))))
        x = torch.max(x, 2)[0]
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)
