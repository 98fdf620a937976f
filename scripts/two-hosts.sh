# Two hosts that are network namespaces of this machine, each with its own address, host name and process numbers: what mpirun
# starts on the other host it starts through `ip netns exec` instead of ssh. To be sourced, with the command in $athanor; needs root,
# iproute2 and util-linux, and ends the caller where they are missing. Leaves $work, a directory that is removed at the end, $name and
# $net, the beginnings of the names and addresses of the hosts, and `launch`.
if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null || ! command -v unshare >/dev/null; then
  echo 'two hosts: skipped, this needs root, ip and unshare'
  exit 0
fi
work=$(mktemp -d)
name=athanor-$$
net=10.213.77

cleanup() {
  for host in 1 2; do
    ip netns pids "$name-$host" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$name-$host" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap cleanup EXIT

for host in 1 2; do ip netns add "$name-$host"; done
ip link add "ath$$a" netns "$name-1" type veth peer name "ath$$b" netns "$name-2"
ip -n "$name-1" addr add "$net.1/24" dev "ath$$a"
ip -n "$name-2" addr add "$net.2/24" dev "ath$$b"
for host in 1 2; do
  ip -n "$name-$host" link set lo up
  ip -n "$name-$host" link set "ath$$$([ $host = 1 ] && echo a || echo b)" up
done

# A host of its own: network, name, processes. Arguments are a command.
cat > "$work/on" <<SCRIPT
#!/bin/sh
host=\$1; shift
exec ip netns exec $name-\$host unshare --uts --pid --fork --kill-child --mount-proc \\
  sh -c 'hostname "\$0"; exec "\$@"' "ath-host-\$host" "\$@"
SCRIPT
# What mpirun takes for ssh: options, a host, a command for its shell.
cat > "$work/agent" <<SCRIPT
#!/bin/sh
while case "\$1" in -*) true ;; *) false ;; esac; do shift; done
host=\${1##*.}; shift
exec $work/on "\$host" sh -c "\$*"
SCRIPT
chmod +x "$work/on" "$work/agent"

# launch MPIRUN EACH ARGUMENTS: runs `athanor ARGUMENTS` on EACH ranks of either host.
launch() {
  local mpirun=$1 each=$2
  shift 2
  case $("$mpirun" --version 2>&1) in
    *HYDRA*) set -- -launcher ssh -launcher-exec "$work/agent" -hosts "$net.1:$each,$net.2:$each" -n $((2 * each)) "$athanor" "$@" ;;
    *' 5.'*) set -- --allow-run-as-root --oversubscribe --prtemca plm_ssh_agent "$work/agent" --host "$net.1:$each,$net.2:$each" \
      -n $((2 * each)) "$athanor" "$@" ;;
    *) set -- --allow-run-as-root --oversubscribe --mca plm_rsh_agent "$work/agent" --host "$net.1:$each,$net.2:$each" \
      -n $((2 * each)) "$athanor" "$@" ;;
  esac
  "$work/on" 1 timeout "${patience:-120}" "$mpirun" "$@"
}
