#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: tests/apiserver/build.sh DIR
#
# Leaves kube-apiserver, etcd and etcdctl in DIR, for `KUBEBUILDER_ASSETS=DIR`. Returns at once when they are there already.
#
# The server is v1.20.2, the one that Debian bookworm's source package `kubernetes` holds; an old server is wanted, as the
# agent has to get along with one. Source, Go compiler and etcd come from the Debian mirror that this machine's apt uses,
# through an apt configuration of its own: nothing is installed and no setting of the machine is changed.
# On 2 cores it took 3 minutes, and 13 beside other builds; it needs 4 GB of room under TMPDIR. GOCACHE, if set, is kept and used.
set -euo pipefail

die() { echo "build.sh: $*" >&2; exit 1; }
say() { echo "build.sh: $*" >&2; }

[ $# -eq 1 ] || die "usage: build.sh DIR"
dest=$(realpath -m "$1")
release=bookworm
version=v1.20.2

complete() {
  local name
  for name in kube-apiserver etcd etcdctl; do [ -x "$dest/$name" ] || return 1; done
}
if complete; then exit 0; fi

for tool in apt-get dpkg-deb tar awk; do
  command -v "$tool" >/dev/null || die "$tool not found: this script takes its parts out of Debian packages and needs a Debian
system. Elsewhere, set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd, such as setup-envtest makes"
done
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || die "$keyring not found: install the package debian-archive-keyring"

scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT

# --- an apt that knows one archive, with its sources, and keeps its state in the scratch folder

mirror=$(apt-get indextargets --format '$(REPO_URI)' | awk '/\/debian\/?$/ { print; exit }')
[ -n "$mirror" ] || die "apt has no Debian archive among its package sources (an address that ends in /debian)"
mkdir -p "$scratch"/apt/{sources,lists/partial,cache/archives/partial} "$scratch"/{packages,root}
echo "deb [signed-by=$keyring] $mirror $release main
deb-src [signed-by=$keyring] $mirror $release main" >"$scratch/apt/sources/$release.list"
echo "Dir::Etc::sourcelist \"/dev/null\";
Dir::Etc::sourceparts \"$scratch/apt/sources\";
Dir::State::lists \"$scratch/apt/lists\";
Dir::Cache \"$scratch/apt/cache\";
APT::Sandbox::User \"root\";" >"$scratch/apt/apt.conf"
export APT_CONFIG="$scratch/apt/apt.conf"

say "fetching from $mirror"
cd "$scratch/packages"
apt-get update -qq
apt-get download -qq etcd-server etcd-client golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev
apt-get source -qq --download-only kubernetes
for package in *.deb; do dpkg-deb --extract "$package" "$scratch/root"; done
unset APT_CONFIG

# --- the source tree, where GOPATH wants it

tree=$scratch/gopath/src/k8s.io/kubernetes
mkdir -p "$tree"
tar -xzf kubernetes_*.orig.tar.gz --strip-components=1 -C "$tree"

# The tree's own copy of reflect2 reaches into the runtime's map iterator as it was laid out before Go 1.18 and crashes the
# server on the first JSON map. Debian's later version of that library asks the runtime for the iterator.
reflect2=$tree/vendor/github.com/modern-go/reflect2
rm -r "$reflect2"
cp -r "$scratch/root/usr/share/gocode/src/github.com/modern-go/reflect2" "$reflect2"

export GOROOT=$scratch/root/usr/lib/go-1.19 GOPATH=$scratch/gopath GOCACHE=${GOCACHE:-$scratch/gocache}
export GO111MODULE=off CGO_ENABLED=0 GOFLAGS=-trimpath
PATH=$GOROOT/bin:$PATH
cd "$tree"

# --- the OpenAPI definitions: generated code that the source package leaves out

say "generating the OpenAPI definitions"
marked_packages() { # PREFIX FOLDER...: import paths of the packages below the folders that ask for definitions
  local prefix=$1
  shift
  grep -rl --include='*.go' --exclude='zz_generated*' '+k8s:openapi-gen=' "$@" |
    awk -v prefix="$prefix" '{ sub("^staging/src/", ""); sub("/[^/]*$", ""); if (!seen[$0]++) print prefix $0 }'
}
inputs=$({
  marked_packages k8s.io/kubernetes/vendor/ staging/src |
    awk '!/sample-|\/_?examples\/|\/examples$|\/testdata|\/testing|\/test\//'
  marked_packages k8s.io/kubernetes/ pkg cmd
} | LC_ALL=C sort | paste -sd,)
go build -o "$scratch/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
"$scratch/openapi-gen" \
  --input-dirs "$inputs" \
  --output-package k8s.io/kubernetes/pkg/generated/openapi \
  --output-file-base zz_generated.openapi \
  --go-header-file hack/boilerplate/boilerplate.generatego.txt \
  --report-filename "$scratch/api-rule-violations"

# --- the server

say "building kube-apiserver $version"
stamp=
for package in component-base/version client-go/pkg/version; do
  variable=k8s.io/kubernetes/vendor/k8s.io/$package
  stamp+=" -X $variable.gitVersion=$version -X $variable.gitMajor=1 -X $variable.gitMinor=20"
done
go build -ldflags "-s -w$stamp" -o "$scratch/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
reported=$("$scratch/kube-apiserver" --version)
[ "$reported" = "Kubernetes $version" ] || die "the server built says '$reported', not 'Kubernetes $version'"

# etcd last by a rename within DIR: a run that was cut short leaves no folder that looks complete.
mkdir -p "$dest"
for binary in "$scratch/root/usr/bin/etcdctl" "$scratch/kube-apiserver" "$scratch/root/usr/bin/etcd"; do
  install -m 0755 "$binary" "$dest/.partial"
  mv "$dest/.partial" "$dest/$(basename "$binary")"
done
say "done: KUBEBUILDER_ASSETS=$dest"
