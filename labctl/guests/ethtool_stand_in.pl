# What ethtool_stand_in.py is, for guests that have perl-base and no Python (x86-64 only):
#     perl -e SCRIPT GROUPS -k IFACE
#     perl -e SCRIPT GROUPS -K IFACE FEATURE on|off ...
# GROUPS tells the groups of features: `LONG SHORT NAME NAME ...; LONG SHORT ...`.
use strict;
my ($groups, $do, $iface, @wanted) = @ARGV;
sub fail { print STDERR "netlink error: $!\n"; exit 1 }
socket(my $sock, 2, 2, 0) or fail();
# SIOCETHTOOL takes a pointer to the request, which the kernel answers in.
sub ask {
    my $data = shift;
    my $request = pack 'a16 P x16', $iface, $data;
    ioctl($sock, 0x8946, $request) or fail();
    return $data;
}
# ETHTOOL_GSSET_INFO of ETH_SS_FEATURES, ETHTOOL_GSTRINGS, ETHTOOL_GFEATURES
my $count = unpack 'x16 L', ask(pack 'L L Q L', 0x37, 0, 16, 0);
my $names = ask(pack("L L L", 0x1b, 4, $count) . "\0" x (32 * $count));
my $blocks = int(($count + 31) / 32);
my $bits = ask(pack('L L', 0x3a, $blocks) . "\0" x (16 * $blocks));
my (%found, @order);
for my $n (0 .. $count - 1) {
    my $name = unpack 'Z32', substr($names, 12 + 32 * $n, 32);
    next unless length $name;
    my ($block, $bit) = (int($n / 32), $n % 32);
    my @words = unpack 'L4', substr($bits, 8 + 16 * $block, 16);
    # available, requested, active, never changed (struct ethtool_get_features_block)
    $found{$name} = [$block, $bit, map { $_ >> $bit & 1 } @words];
    push @order, $name;
}
my (@groups, %members);
for my $group (split /; /, $groups) {
    my ($long, $short, @its) = split / /, $group;
    push @groups, [$long, @its];
    $members{$long} = $members{$short} = \@its;
}
sub line {
    my ($name, @its) = @_;
    my $active = grep { $_->[4] } @its;
    my $text = "$name: " . ($active ? 'on' : 'off');
    return "$text [fixed]" unless grep { $_->[2] && !$_->[5] } @its;
    return "$text [requested " . ($its[0][3] ? 'on' : 'off') . ']'
        if @its == 1 && $its[0][4] != $its[0][3];
    return $text;
}
if ($do eq '-k') {
    my %grouped;
    print "Features for $iface:\n";
    for my $group (@groups) {
        my ($long, @its) = @$group;
        my $several = @its > 1;
        @its = grep { $found{$_} } @its;
        $grouped{$_} = 1 for @its;
        print line($long, map { $found{$_} } @its), "\n" if @its;
        if ($several) { print "\t", line($_, $found{$_}), "\n" for @its }
    }
    for (@order) { print line($_, $found{$_}), "\n" unless $grouped{$_} }
    exit 0;
}
my (%valid, %wanted);
while (my ($word, $value) = splice @wanted, 0, 2) {
    for my $name (@{$members{$word} || [$word]}) {
        my ($block, $bit, $available, undef, undef, $never) = @{$found{$name} || next};
        next if !$available || $never;
        $valid{$block} |= 1 << $bit;
        $wanted{$block} &= ~(1 << $bit);
        $wanted{$block} |= 1 << $bit if $value eq 'on';
    }
}
if (!%valid) { print STDERR "Could not change any device features\n"; exit 1 }
# ETHTOOL_SFEATURES wants all blocks.
my $request = pack 'L L', 0x3b, $blocks;
$request .= pack 'L L', $valid{$_} || 0, $wanted{$_} || 0 for 0 .. $blocks - 1;
ask($request);
