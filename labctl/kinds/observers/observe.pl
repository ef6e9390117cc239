# The observer of observe.py for guests that have perl-base and no Python (x86-64 only):
#     perl -e SCRIPT HOP IFACE SNAP
# Same stream, same rules. No module is used: recvmsg goes through syscall(), because Perl's own
# recv() gives neither control messages nor the sender's packet type apart from the data.
use strict;
my ($hop, $iface, $snap) = @ARGV;
my ($SOL_PACKET, $SOL_SOCKET, $NR_RECVMSG, $NR_CLOCK) = (263, 1, 47, 228);
my $ended = 0;
$SIG{TERM} = sub { $ended = 1 };
$SIG{INT} = 'IGNORE';
binmode STDOUT;
$| = 0;

sub now {
    my $spec = "\0" x 16;
    syscall($NR_CLOCK, 0, $spec);
    my ($s, $n) = unpack 'q2', $spec;
    return $s * 1000000000 + $n;
}
sub quoted {
    my $text = shift;
    $text =~ s/([\x00-\x1f"\\])/sprintf '\\u%04x', ord $1/ge;
    return "\"$text\"";
}
sub object {
    my @out;
    while (my ($key, $value) = splice @_, 0, 2) { push @out, quoted($key) . ": $value" }
    return '{' . join(', ', @out) . '}';
}
sub fail { print STDERR "cannot observe $iface: $_[0]: $!\n"; exit 1 }

socket(my $sock, 17, 3, 0) or fail('socket');
sub option { setsockopt($sock, $_[0], $_[1], $_[2]) }
option($SOL_PACKET, 15, pack 'i', 1) or fail('PACKET_VNET_HDR');
option($SOL_PACKET, 8, pack 'i', 1) or fail('PACKET_AUXDATA');
option($SOL_SOCKET, 35, pack 'i', 1) or fail('SO_TIMESTAMPNS');
my $buffer = 64 << 20;
if (open my $file, '<', '/proc/meminfo') {
    my ($free) = join('', <$file>) =~ /^MemAvailable: +(\d+) kB$/m;
    $buffer = int $free * 128 if defined $free && $free * 128 < $buffer;
}
option($SOL_SOCKET, 33, pack 'i', $buffer) or option($SOL_SOCKET, 8, pack 'i', $buffer);
sub ask {
    my $request = pack 'a16 x16', $iface;
    ioctl($sock, $_[0], $request) or fail('interface');
    return unpack 'x16 i', $request;
}
my $index = ask(0x8933);
my $mtu = ask(0x8921);
bind($sock, pack 'S n i S C C a8', 17, 3, $index, 0, 0, 0, '') or fail('bind');
my $kernel = '';
if (open my $file, '<', '/proc/sys/kernel/osrelease') { chomp($kernel = <$file>) }
my $about = object(
    version => 1, hop => quoted($hop), interface => quoted($iface), ifindex => $index,
    mtu => $mtu, snap => $snap, clock_ns => now(), kernel => quoted($kernel),
    observer => quoted('perl'));
my ($written, $errors, $out) = (0, 0, '');
sub flush {
    while (length $out) {
        my $n = syswrite STDOUT, $out;
        if (!defined $n) {
            my $why = $! + 0;
            next if $why == 4;
            print STDERR "cannot write what was seen on $iface: $!\n";
            exit $why;
        }
        substr($out, 0, $n) = '';
    }
}
$out = "labctl\0\1" . pack('V', length $about) . $about;
flush();

my $room = $snap + 10;
my ($data, $address, $control) = ("\0" x $room, "\0" x 20, "\0" x 256);
my $vector = pack 'P Q', $data, $room;
sub drain {
    for (1 .. 256) {
        my $message = pack 'P L x4 P Q P Q i x4', $address, 20, $vector, 1, $control, 256, 0;
        # MSG_DONTWAIT and MSG_TRUNC
        my $got = syscall($NR_RECVMSG, fileno $sock, $message, 0x60);
        if ($got < 0) {
            return 0 if $! == 11;
            next if $! == 4;
            $errors++;
            next;
        }
        my $used = unpack 'x40 Q', $message;
        my ($time, $status, $length, $tci, $tpid) = (0) x 5;
        my $at = 0;
        while ($at + 16 <= $used) {
            my ($size, $level, $kind) = unpack "x$at Q i i", $control;
            last if $size < 16;
            my $value = substr $control, $at + 16, $size - 16;
            if ($level == $SOL_SOCKET && $kind == 35) {
                my ($s, $n) = unpack 'q2', $value;
                $time = $s * 1000000000 + $n;
            } elsif ($level == $SOL_PACKET && $kind == 8) {
                ($status, $length, $tci, $tpid) = unpack 'L L x4 x2 x2 S S', $value;
            }
            $at += ($size + 7) & ~7;
        }
        $got = $room if $got > $room;
        my ($where, $direction) = unpack 'x4 i x2 C', $address;
        my $kept = $got - 10;
        $out .= pack('C V Q< C x v l< V V V v v a10 x2', 1, $kept + 44, $time, $direction, 0,
            $where, $status, $length, $kept, $tci, $tpid, $data) . substr($data, 10, $kept);
        $written++;
        flush() if length $out > 262144;
    }
    return 1;
}
until ($ended) {
    my $ready = '';
    vec($ready, fileno $sock, 1) = 1;
    vec($ready, 0, 1) = 1;
    my $count = select $ready, undef, undef, 1; # a signal just before it must not be slept over
    flush() unless drain();
    if ($count > 0 && vec($ready, 0, 1)) { $ended = 1 unless sysread STDIN, my $word, 4096 }
}
my $refuse = pack 'S C C L', 6, 0, 0, 0;
option($SOL_SOCKET, 26, pack 'S x6 P', 1, $refuse);
1 while drain();
my ($packets, $drops) = unpack 'L2', getsockopt($sock, $SOL_PACKET, 6);
my $end = object(packets => $packets, drops => $drops, written => $written,
    errors => $errors, clock_ns => now());
$out .= pack('C V', 2, length $end) . $end;
flush();
