"""Networks for sequences and films as people write them by hand, small."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class ConvGRUCell(nn.Module):
    """A GRU whose products are convolutions (Ballas et al., 2016)."""

    def __init__(self, inputs: int, hidden: int, kernel: int = 3) -> None:
        super().__init__()
        self.hidden_size = hidden
        self.gates = nn.Conv2d(inputs + hidden, 2 * hidden, kernel, padding=kernel // 2)
        self.candidate = nn.Conv2d(inputs + hidden, hidden, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        if h is None:
            size = (x.size(0), self.hidden_size, *x.size()[2:])
            h = torch.zeros(size, dtype=x.dtype, device=x.device)
        gates = self.gates(torch.cat([x, h], dim=1))
        reset, update = torch.split(gates, self.hidden_size, dim=1)
        reset, update = torch.sigmoid(reset), torch.sigmoid(update)
        new = torch.tanh(self.candidate(torch.cat([x, reset * h], dim=1)))
        return (1 - update) * h + update * new


class ConvGRU(nn.Module):
    """Two layers of it over a film: (N, T, 3, H, W) to the next image."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, hidden, 3, padding=1)
        self.cells = nn.ModuleList(ConvGRUCell(hidden, hidden) for _ in range(2))
        self.out = nn.Conv2d(hidden, 3, 3, padding=1)

    def forward(self, film: Tensor) -> Tensor:
        states: list[Tensor | None] = [None, None]
        for t in range(film.size(1)):
            x = F.relu(self.encoder(film[:, t]))
            for number, cell in enumerate(self.cells):
                x = states[number] = cell(x, states[number])
        return self.out(x)


class TemporalBlock(nn.Module):
    """Two causal convolutions beside a shortcut; the future is cut off."""

    def __init__(self, a: int, b: int, dilation: int, kernel: int = 3) -> None:
        super().__init__()
        self.chomp = (kernel - 1) * dilation
        options = {"padding": self.chomp, "dilation": dilation}
        self.conv1 = weight_norm(nn.Conv1d(a, b, kernel, **options))
        self.conv2 = weight_norm(nn.Conv1d(b, b, kernel, **options))
        self.down = nn.Conv1d(a, b, 1) if a != b else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x)[:, :, : -self.chomp].contiguous())
        y = F.relu(self.conv2(y)[:, :, : -self.chomp].contiguous())
        return F.relu(y + (x if self.down is None else self.down(x)))


class TCN(nn.Module):
    """A temporal convolutional network with weight norm (Bai et al., 2018)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        blocks = [TemporalBlock(8 if n == 0 else width, width, 2**n) for n in range(4)]
        self.tcn, self.linear = nn.Sequential(*blocks), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.linear(self.tcn(x)[:, :, -1]), dim=1)


class WaveNet(nn.Module):
    """Gated dilated convolutions, whose skips are summed (van den Oord et al., 2016)."""

    def __init__(self, residual: int = 32, skip: int = 48, layers: int = 5) -> None:
        super().__init__()
        self.start = nn.Conv1d(16, residual, 1)
        self.filters, self.gates = (
            nn.ModuleList(nn.Conv1d(residual, residual, 2, dilation=2**n) for n in range(layers))
            for _ in range(2)
        )
        self.residuals = nn.ModuleList(nn.Conv1d(residual, residual, 1) for _ in range(layers))
        self.skips = nn.ModuleList(nn.Conv1d(residual, skip, 1) for _ in range(layers))
        self.end1, self.end2 = nn.Conv1d(skip, 64, 1), nn.Conv1d(64, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.start(x), 0
        layers = zip(self.filters, self.gates, self.residuals, self.skips, strict=True)
        for number, (filtered, gate, residual, skip) in enumerate(layers):
            padded = F.pad(x, (2**number, 0))
            y = torch.tanh(filtered(padded)) * torch.sigmoid(gate(padded))
            total = total + skip(y)
            x = x + residual(y)
        return self.end2(F.relu(self.end1(F.relu(total))))


class CRNN(nn.Module):
    """Reads text: convolutions, then a bidirectional LSTM over columns (Shi et al., 2015)."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        widths = (1, 16, 32, 64)
        convs = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        ]
        self.cnn = nn.Sequential(convs[0], nn.MaxPool2d(2), convs[1], nn.MaxPool2d(2), convs[2])
        self.rnn = nn.LSTM(64 * 4, hidden, bidirectional=True, num_layers=2)
        self.out = nn.Linear(2 * hidden, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cnn(x)
        b, c, h, w = x.size()
        x = x.view(b, c * h, w).permute(2, 0, 1)
        x, _ = self.rnn(x)
        return self.out(x)


class Tagger(nn.Module):
    """An LSTM that labels words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 48)
        self.lstm = nn.LSTM(48, 64, batch_first=True, num_layers=2)
        self.fc, self.out = nn.Linear(64, 64), nn.Linear(64, 9)

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(words))
        return self.out(F.relu(self.fc(states)))


class CausalSelfAttention(nn.Module):
    """nanoGPT's."""

    def __init__(self, n_embd: int, n_head: int, block: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.n_head, self.n_embd = n_head, n_embd
        self.register_buffer("bias", torch.tril(torch.ones(block, block)).view(1, 1, block, block))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        y = (F.softmax(att, dim=-1) @ v).transpose(1, 2).contiguous().view(B, T, C)
        return self.c_proj(y)


class NanoGPT(nn.Module):
    """Karpathy's nanoGPT, tied head and all."""

    def __init__(
        self, n_embd: int = 64, n_head: int = 4, n_layer: int = 2, block: int = 32
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(500, n_embd), nn.Embedding(block, n_embd)
        self.attns = nn.ModuleList(
            CausalSelfAttention(n_embd, n_head, block) for _ in range(n_layer)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))
            for _ in range(n_layer)
        )
        self.lns = nn.ModuleList(nn.LayerNorm(n_embd) for _ in range(2 * n_layer + 1))
        self.lm_head = nn.Linear(n_embd, 500, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor) -> Tensor:
        _, t = idx.size()
        x = self.wte(idx) + self.wpe(torch.arange(0, t, dtype=torch.long))
        for number, (attn, mlp) in enumerate(zip(self.attns, self.mlps, strict=True)):
            x = x + attn(self.lns[2 * number](x))
            x = x + mlp(self.lns[2 * number + 1](x))
        return self.lm_head(self.lns[-1](x))


class RMSNorm(nn.Module):
    """Meta's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
        return x * self.weight


def repeat_kv(x: Tensor, n_rep: int) -> Tensor:
    """(N, T, heads, d) to (N, T, heads * n_rep, d)."""
    bs, slen, n_kv_heads, head_dim = x.shape
    if n_rep == 1:
        return x
    repeated = x[:, :, :, None, :].expand(bs, slen, n_kv_heads, n_rep, head_dim)
    return repeated.reshape(bs, slen, n_kv_heads * n_rep, head_dim)


class LlamaAttention(nn.Module):
    """Meta's: complex rotations, grouped keys that are repeated."""

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.n_local_heads, self.n_local_kv_heads = heads, kv_heads
        self.n_rep, self.head_dim = heads // kv_heads, dim // heads
        self.wq, self.wo = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.wk, self.wv = (nn.Linear(dim, kv_heads * self.head_dim, bias=False) for _ in range(2))

    def forward(self, x: Tensor, freqs_cis: Tensor, mask: Tensor) -> Tensor:
        bsz, seqlen, _ = x.shape
        xq, xk, xv = self.wq(x), self.wk(x), self.wv(x)
        xq = xq.view(bsz, seqlen, self.n_local_heads, self.head_dim)
        xk = xk.view(bsz, seqlen, self.n_local_kv_heads, self.head_dim)
        xv = xv.view(bsz, seqlen, self.n_local_kv_heads, self.head_dim)
        xq, xk = rotated(xq, freqs_cis), rotated(xk, freqs_cis)
        keys = repeat_kv(xk, self.n_rep).transpose(1, 2)
        values = repeat_kv(xv, self.n_rep).transpose(1, 2)
        xq = xq.transpose(1, 2)
        scores = torch.matmul(xq, keys.transpose(2, 3)) / math.sqrt(self.head_dim)
        scores = F.softmax((scores + mask).float(), dim=-1).type_as(xq)
        output = torch.matmul(scores, values).transpose(1, 2).contiguous().view(bsz, seqlen, -1)
        return self.wo(output)


def rotated(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """Pairs of channels as complex numbers, turned."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    turned = pairs * freqs_cis.view(1, x.shape[1], 1, -1)
    return torch.view_as_real(turned).flatten(3).type_as(x)


class Llama(nn.Module):
    """Meta's Llama, in small."""

    def __init__(self, dim: int = 64, heads: int = 4, kv_heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.tok_embeddings, self.output = nn.Embedding(500, dim), nn.Linear(dim, 500, bias=False)
        self.attentions = nn.ModuleList(LlamaAttention(dim, heads, kv_heads) for _ in range(layers))
        self.w1, self.w2, self.w3 = (
            nn.ModuleList(nn.Linear(a, b, bias=False) for _ in range(layers))
            for a, b in ((dim, 160), (160, dim), (dim, 160))
        )
        self.norms = nn.ModuleList(RMSNorm(dim) for _ in range(2 * layers + 1))
        half = torch.arange(0, dim // heads, 2).float() / (dim // heads)
        angles = torch.outer(torch.arange(64).float(), 1.0 / 10000**half)
        self.freqs_cis = torch.polar(torch.ones_like(angles), angles)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tok_embeddings(tokens)
        mask = torch.triu(torch.full((h.shape[1], h.shape[1]), float("-inf")), diagonal=1)
        for n, attention in enumerate(self.attentions):
            h = h + attention(self.norms[2 * n](h), self.freqs_cis[: h.shape[1]], mask)
            y = self.norms[2 * n + 1](h)
            h = h + self.w2[n](F.silu(self.w1[n](y)) * self.w3[n](y))
        return self.output(self.norms[-1](h)).float()
