#!/usr/bin/perl
# Stands in for a Berth daemon: binds where its configuration says and tells each caller its name.
use strict;
use warnings;
use IO::Socket::INET;

my ($flag, $path) = @ARGV;
open(my $config, '<', $path) or die "$path: $!";
my %value;
while (<$config>) { $value{$1} //= $2 if /^(\w+) = "(.*)"$/ }
my $where = $value{api_listen} // $value{listen};
$| = 1;
print "$value{name} starts at $where\n";
my $server = IO::Socket::INET->new(LocalAddr => $where, Listen => 5, ReuseAddr => 1) or die "$where: $!";
while (my $caller = $server->accept) { print $caller "$value{name}\n"; close $caller }
