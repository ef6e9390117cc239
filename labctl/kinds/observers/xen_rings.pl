# Loads the programs of xen_rings_program.py into dom0's kernel and hands on what they note, until
# its standard input ends (x86-64 only, perl-base is enough):
#     perl -e SCRIPT MAPS PROGRAMS VIF...
# Everything hangs on this process's file descriptors: when it is gone, so is the tracing.
# There is no single quote in here, because the whole is quoted for a shell.
use strict;
my ($maps, $programs, @vifs) = @ARGV;
my ($BPF, $CLOCK_GETTIME) = (321, 228);
$| = 1;

sub fail { print "cannot $_[0]\n"; exit }
sub slurp {
    open my $file, "<", $_[0] or return "";
    local $/;
    return scalar <$file>;
}
sub clocks {
    my ($best, @times) = 1e18;
    for (1 .. 9) {
        # Reading takes its time under emulation: real time lies between two of the other clock.
        my @at = map { pack "q2", 0, $_ } 1 .. 3;
        my ($i, @now) = 0;
        syscall $CLOCK_GETTIME, $_, $at[$i++] for 1, 0, 1;
        push @now, $_->[0] * 1000000000 + $_->[1] for map { [unpack "q2", $_] } @at;
        next if $now[2] - $now[0] >= $best;
        $best = $now[2] - $now[0];
        @times = ($now[1], $now[0] + int $best / 2);
    }
    return "@times";
}
chomp(my $kernel = slurp("/proc/sys/kernel/osrelease"));

sub bpf {
    return syscall $BPF, $_[0], $_[1], length $_[1]; # the kernel may write to it
}

# BTF: the types of the kernel, then those of the module, whose ids and strings go on from there.
my (@types, @strings, $before);
for my $name ("vmlinux", "xen_netback") {
    my $all = slurp("/sys/kernel/btf/$name");
    next unless unpack("S", $all) == 0xeb9f;
    my ($header, $type, $types, $string, $strings) = unpack "x4 L5", $all;
    push @types, [$name, substr $all, $header + $type, $types];
    push @strings, [$before += 0, "\0" . substr $all, $header + $string, $strings];
    $before += $strings;
}
@types or fail("find out how Linux $kernel lays out its structures: no /sys/kernel/btf");
sub named {
    for (@strings) {
        my $at = index $_->[1], "\0$_[0]\0";
        return $_->[0] + $at if $at >= 0;
    }
    return -1;
}
# By name and kind (4 a structure, 12 a function), what the programs speak of: id and text of each.
my %known;
{
    my %wanted = map { named($_) => $_ } $programs =~ /\b([a-z]\w+)[. ]/g;
    # Words after each kind of type: always, and for each of its parts.
    my %fixed = (1, 1, 3, 3, 14, 1, 17, 1);
    my %each = (4, 3, 5, 3, 6, 2, 13, 2, 15, 3, 19, 3);
    my $id = 0;
    for (@types) {
        my ($from, $text) = @$_;
        for (my $at = 0; $at < length $text;) {
            my ($name, $info) = unpack "L2", substr $text, $at, 8;
            my $kind = $info >> 24 & 31;
            my $size = 12 + 4 * ($fixed{$kind} + $each{$kind} * ($info & 65535));
            $id++;
            push @{$known{$wanted{$name}, $kind}}, [$id, $from, substr $text, $at, $size]
                if $wanted{$name};
            $at += $size;
        }
    }
}
# Where a member is in its structure, in bytes, or how large the structure is. Two structures of one
# name that differ in it tell nothing.
sub place {
    my ($struct, $member) = split /\./, $_[0];
    my $part = named($member);
    my %found;
    for (@{$known{$struct, 4}}) {
        my (undef, undef, $size, @members) = unpack "L*", $_->[2];
        $found{$size} = 1 unless length $member;
        while (my ($name, $kind, $bits) = splice @members, 0, 3) {
            $found{($bits & 0xffffff) / 8} = 1 if $name == $part;
        }
    }
    return keys %found == 1 ? (keys %found)[0] : undef;
}
sub filled {
    my $sum = 0;
    for my $part (split /\+/, $_[0]) {
        my ($found) = grep defined, map { place($_) } split /\|/, $part;
        defined $found or fail("find $part among the types of Linux $kernel");
        $sum += $found;
    }
    return $sum;
}
sub module {
    my $id = 0;
    while (bpf(23, my $next = pack "L3", $id, 0, 0) == 0) {
        $id = unpack "x4 L", $next;
        my $fd = bpf(19, pack "L3", $id, 0, 0);
        my $name = "\0" x 64;
        my $info = pack "Q L2 P L2", 0, 0, 0, $name, length $name, 0;
        return $fd if bpf(15, pack "L2 P", $fd, length $info, $info) == 0
            && unpack("Z*", $name) eq $_[0];
    }
    fail("find the types of $_[0]: $!");
}

my @maps = map {
    my $fd = bpf(0, pack "L5", split /,/);
    $fd < 0 and fail("make a BPF map: $!");
    $fd;
} split / /, $maps;
for (@vifs) {
    my ($key, $zero) = (pack("a16", $_), pack "Q", 0);
    bpf(2, pack "L x4 P P Q", $maps[1], $key, $zero, 0) < 0 and fail("watch $_: $!");
}
my @links;
for (split /\n/, $programs) {
    my ($function, $when, $code, $holes) = split / /;
    $code =~ s/([g-z])/"0" x (ord($1) - 100)/ge;
    $code = pack "H*", $code;
    for (split /;/, $holes) {
        my ($at, $what) = split /=/;
        substr $code, 8 * $at + 4, 4, pack "l", $what =~ /@(.)/ ? $maps[$1] : filled($what);
    }
    my @at = @{$known{$function, 12} || []};
    @at == 1 or fail("find $function among the functions of Linux $kernel");
    my ($id, $from) = @{$at[0]};
    my ($gpl, $log) = ("GPL\0", "\0" x 65536);
    my $head = pack "L2 P P", 26, length($code) / 8, $code, $gpl; # BPF_PROG_TYPE_TRACING
    my $tail = pack "x8 a16 x4 L x36 L2", "labctl_flags", $when, $id,
        $from eq "vmlinux" ? 0 : module($from);
    my $fd = bpf(5, $head . pack("x16") . $tail);
    if ($fd < 0) {
        my $why = $!;
        bpf(5, $head . pack("L2 P", 1, length $log, $log) . $tail);
        my ($last) = reverse grep { /\S/ && !/^processed/ } split /[\n\0]+/, $log;
        fail("load the program for $function: $why: $last");
    }
    my $link = bpf(17, pack "x8 L x4", $fd); # BPF_RAW_TRACEPOINT_OPEN
    $link < 0 and fail("follow $function in Linux $kernel: $!");
    open my $handle, "+<&=", $link;
    push @links, $handle;
}
sub drain {
    my ($out, $record) = ("", "\0" x (split /[, ]/, $maps)[2]);
    my $pop = pack "L x4 Q P Q", $maps[0], 0, $record, 0;
    $out .= "seen " . unpack("H*", $record) . "\n" while bpf(21, $pop) == 0;
    print $out;
}
print "labctl xen flags 1 ", clocks(), " $kernel\n";
while (1) {
    my $ready = "";
    vec($ready, 0, 1) = 1;
    my $count = select $ready, undef, undef, 0.1;
    drain();
    last if $count > 0 && !sysread STDIN, my $word, 4096;
}
close $_ for @links;
drain();
for (@vifs) {
    my ($key, $value) = (pack("a16", $_), "\0" x 8);
    bpf(1, pack "L x4 P P Q", $maps[1], $key, $value, 0);
    print "count $_ ", unpack("Q", $value), "\n";
}
print "end ", clocks(), "\n";
