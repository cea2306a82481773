#!/usr/bin/env bash
# Gathers in .device (ignored by git) what run.sh needs where there is no network.
#
#   SHARED=../shared AUTO_LIRPA=FOLDER experiments/device/pack.sh
#
# SHARED holds the networks, inputs, benchmarks and images; AUTO_LIRPA, if it is named, is
# a checkout of auto_LiRPA or its git directory, to be measured beside; its licence, which
# goes with it, allows copies.
set -eu
cd "$(dirname "$0")/../.."
shared=${SHARED:-../shared} pack=.device python=${PYTHON:-python3}
rm -rf "$pack"
mkdir -p "$pack/data/fashion_mnist" "$pack/vnncomp" "$pack/site"
cp -r "$shared/peers/parallelepipedonn/inputs" "$shared/peers/parallelepipedonn/networks" "$pack"
for name in mnist fashion_mnist; do
  mkdir "$pack/inputs/${name}_few"
  ls "$pack/inputs/$name" | head -3 | xargs -I{} cp "$pack/inputs/$name/{}" "$pack/inputs/${name}_few"
done
cp -r "$shared/peers/vnncomp/mnist_fc" "$shared/benchmarks/oval21" "$pack/vnncomp"
cp "$shared"/data/fashion_mnist/*.gz "$pack/data/fashion_mnist"
if [ -n "${AUTO_LIRPA:-}" ]; then
  if [ -d "$AUTO_LIRPA/auto_LiRPA" ]; then
    cp -r "$AUTO_LIRPA/auto_LiRPA" "$AUTO_LIRPA/LICENSE" "$pack/site"
  else
    git --git-dir="$AUTO_LIRPA" archive HEAD auto_LiRPA LICENSE | tar -x -C "$pack/site"
  fi
  "$python" -m pip install --quiet --no-deps --target "$pack/site" appdirs graphviz
fi
du -sm "$pack" | awk '{ print $1 " MiB in " $2; exit $1 > 40 }'
